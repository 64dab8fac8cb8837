"""What a deployed model needs. Nothing here imports paddleclas, models or training code."""
