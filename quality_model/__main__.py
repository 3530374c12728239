"""`python -m quality_model`: the command line."""

from quality_model.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
