"""The extras of the package: which one brings the package that an import needs.

Scoring needs none of them. Where an import fails, `missing_extra` makes one line that names the extra.
"""

from typing import Final

from quality_model.errors import MissingExtraError

EXTRAS: Final = {
    "train": (
        *(
            "cv2",
            "datasets",
            "fsspec",
            "huggingface_hub",
            "matplotlib",
            "pandas",
            "scipy",
            "skimage",
            "sklearn",
        ),
        *("torch", "torchvision", "scikit-image", "scikit-learn"),
    ),
    "workflow": (
        *("dvc", "fastapi", "great_expectations", "jinja2", "mlflow", "prefect", "psutil", "sqlalchemy"),
    ),
    "formats": ("pi_heif",),
    "onnx": ("onnx",),
}
"""By extra, the names by which its packages are imported, and those whose distribution is looked up."""


def install_command(extra: str) -> str:
    """What a user types to install an extra."""
    return f'pip install "quality-model[{extra}]"'


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error to show for a failed import; None if no extra brings the module."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return MissingExtraError(f"This needs {module}, which is not installed: {install_command(extra)}")
    return None
