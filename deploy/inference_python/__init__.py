"""Paddle Inference in Python: predictor.py (the engine), encode.py (bulk encoding), infer.py (the command)."""
