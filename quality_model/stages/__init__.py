"""Steps that are more than one call of the library. Each has its inputs and outputs as arguments."""
