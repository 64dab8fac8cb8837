"""How the relaxed codes of two engines of one network differ."""
import numpy as np

MARGIN = 1e-3  # of the largest |code|: bits of smaller codes may differ between engines


def difference(reference, other):
    """How two engines' relaxed codes [N, bits] differ: a dict.

    ``near_zero`` counts the codes of the reference within MARGIN of its largest |code| from zero, ``far_flips`` the
    bits that differ although their code is not among them; ``largest`` is the largest difference of two codes.
    """
    near = np.abs(reference) <= MARGIN * np.abs(reference).max()
    flips = (reference >= 0) != (other >= 0)
    return {"items": len(reference), "codes": reference.size, "near_zero": int(near.sum()), "flips": int(flips.sum()),
            "far_flips": int((flips & ~near).sum()), "largest": float(np.abs(reference - other).max())}
