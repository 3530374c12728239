"""The model as MLflow keeps it: safetensors and JSON, loaded by this package; no pickle, no code inside.

The folder is an MLflow model with the ``python_function`` flavor, whose ``loader_module`` is this module. So
`mlflow.pyfunc.load_model`, `mlflow models serve` and Spark give the scores that `predict` gives.
"""

import io
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model import __version__
from quality_model.core.predict import Scorer
from quality_model.core.storage import MARKER_NAME, require_sealed
from quality_model.errors import ImageError
from quality_model.paths import MODEL_FOLDER
from quality_model.records import HEADS

if TYPE_CHECKING:
    import pandas as pd

MODEL_NAME: Final = "quality-model"
"""Name of the logged model."""

IMAGE_COLUMN: Final = "image"
"""The column of encoded images that the model takes."""

_SCORES: Final = (*HEADS, "overall")
_ERRORS: Final = ("error_code", "error_detail")
_EXAMPLE_SIDE_PX: Final = 32
_REQUIREMENTS: Final = ("filelock", "ncnn", "numpy", "pandas", "pillow", "pydantic", "safetensors")


def write_mlflow_model(model_folder: Path, output: Path, *, run_id: str, model_id: str) -> None:
    """Write an MLflow model around the files of ``model_folder``.

    The signature takes a binary column ``image`` of encoded images, and gives for each a row of five scores
    in [0, 1], or an error code.

    Args:
        model_folder: Complete folder with model.safetensors and model.json.
        output: Folder to make.
        run_id: MLflow run that made it.
        model_id: Logged model that it becomes.

    Raises:
        IncompleteError, CorruptError: The model's files are not those that its completion marker describes.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    marker = require_sealed(model_folder, verify=True)
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", name=IMAGE_COLUMN)]),
        outputs=Schema(
            [
                *(ColSpec("double", name=name) for name in _SCORES),
                *(ColSpec("string", name=name, required=False) for name in _ERRORS),
            ]
        ),
    )
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / Path(MODEL_FOLDER).name
        staged.mkdir()
        for name in [*(entry["name"] for entry in marker["files"]), MARKER_NAME]:
            shutil.copyfile(model_folder / name, staged / name)
        mlflow.pyfunc.save_model(
            output,
            loader_module=__name__,
            data_path=str(staged),
            mlflow_model=Model(
                artifact_path=MODEL_NAME,  # its location would be a path of this machine
                run_id=run_id,
                model_uuid=model_id,
                model_id=model_id,
                metadata={"loaded_by": f"quality-model {__version__}"},
            ),
            signature=signature,
            input_example=pd.DataFrame({IMAGE_COLUMN: _examples()}),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
        )


class PyfuncModel:
    """The model behind ``mlflow.pyfunc.load_model``."""

    def __init__(self, folder: Path) -> None:
        self._scorer = Scorer(folder, "cpu")

    def predict(
        self, model_input: "pd.DataFrame | npt.NDArray[np.uint8]", params: dict[str, Any] | None = None
    ) -> "pd.DataFrame":
        """Score images, as `Scorer.predict` does.

        Args:
            model_input: Encoded images in the column ``image``; or uint8 (N, H, W, 3) RGB, which models take
                that were logged before they had this column.
            params: Unused; MLflow's interface has it.

        Returns:
            float64 (N, 5), the four heads, 0 absent to 1 severe, and ``overall``, 1 best; then ``error_code``
            and ``error_detail`` of images without scores, which have NaN.
        """
        import pandas as pd

        images = [*model_input] if isinstance(model_input, np.ndarray) else [*model_input[IMAGE_COLUMN]]
        rows = self._scorer.predict_batch(map(_image_of, images), errors="return")
        errors = [row if isinstance(row, ImageError) else None for row in rows]
        columns: dict[str, Any] = {
            name: pd.Series([getattr(row, name, float("nan")) for row in rows], dtype="float64")
            for name in _SCORES
        }
        columns["error_code"] = pd.Series([error and error.reason for error in errors], dtype=object)
        columns["error_detail"] = pd.Series([error and error.detail for error in errors], dtype=object)
        return pd.DataFrame(columns)


def _image_of(value: Any) -> bytes | npt.NDArray[np.uint8]:
    """An image of a request; a text, which would be a path of this machine, is none."""
    return value if isinstance(value, bytes | np.ndarray) else b""


def _load_pyfunc(data_path: str) -> PyfuncModel:
    """MLflow's hook: load the model from the folder of its data."""
    return PyfuncModel(Path(data_path))


def _examples() -> list[bytes]:
    """Two images that are gradients, as PNG."""
    shape = (2, _EXAMPLE_SIDE_PX, _EXAMPLE_SIDE_PX, 3)
    examples = []
    for pixels in np.linspace(0, 255, num=int(np.prod(shape))).astype(np.uint8).reshape(shape):
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        examples.append(encoded.getvalue())
    return examples
