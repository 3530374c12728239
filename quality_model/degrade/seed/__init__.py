"""Label profile `seed`: the degradations and labels of the original generator."""
