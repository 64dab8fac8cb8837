"""Paddle Inference in Python: predictor.py (the engine), infer.py (the command)."""
