"""The model as MLflow keeps it: safetensors and JSON, loaded by this package; no pickle, no code inside.

The folder is an MLflow model with the ``python_function`` flavor, whose ``loader_module``
is this module. So ``mlflow.pyfunc.load_model`` gives scores for a batch of any size.
"""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from quality_model import __version__
from quality_model.core.storage import MARKER_NAME, require_sealed
from quality_model.paths import MODEL_FOLDER
from quality_model.records import HEADS, OVERALL_WEIGHTS

if TYPE_CHECKING:
    import pandas as pd

MODEL_NAME: Final = "quality-model"
"""Name of the logged model."""

_EXAMPLE_SIDE_PX: Final = 32
_REQUIREMENTS: Final = ("numpy", "pandas", "safetensors", "torch")


def write_mlflow_model(model_folder: Path, output: Path, *, run_id: str, model_id: str) -> None:
    """Write an MLflow model around the files of ``model_folder``.

    The signature takes uint8 (-1, -1, -1, 3), RGB images already resized to the model's
    size, and gives a row of five scores in [0, 1] for each.

    Args:
        model_folder: Complete folder with model.safetensors and model.json.
        output: Folder to make.
        run_id: MLflow run that made it.
        model_id: Logged model that it becomes.

    Raises:
        IncompleteError, CorruptError: The model's files are not those that its completion marker describes.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    marker = require_sealed(model_folder, verify=True)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3), name=None)]),
        outputs=Schema([ColSpec("float", name=head) for head in (*HEADS, "overall")]),
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
            input_example=_example(),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
        )


class PyfuncModel:
    """The model behind ``mlflow.pyfunc.load_model``."""

    def __init__(self, folder: Path) -> None:
        import torch

        from quality_model.networks.model import load_model

        self._device = torch.device("cpu")
        loaded = load_model(folder, self._device)
        self._model, self._views = loaded.model, loaded.views

    def predict(
        self, model_input: npt.NDArray[np.uint8], params: dict[str, Any] | None = None
    ) -> "pd.DataFrame":
        """Score a batch.

        Args:
            model_input: uint8 (N, S, S, 3) RGB, already resized to the model's size.
            params: Unused; MLflow's interface has it.

        Returns:
            float32 (N, 5): the four heads, 0 absent to 1 severe, and ``overall``, 1 best.
        """
        import pandas as pd
        import torch

        from quality_model.networks.model import to_model_input

        with torch.inference_mode():
            found = self._model(to_model_input(np.asarray(model_input), self._device))["all_scores"]
        scores = self._views.on_scale(found.float().numpy())
        weights = np.array([OVERALL_WEIGHTS[head] for head in HEADS], np.float32)
        return pd.DataFrame(scores, columns=[*HEADS]).assign(overall=1.0 - scores @ weights)


def _load_pyfunc(data_path: str) -> PyfuncModel:
    """MLflow's hook: load the model from the folder of its data."""
    return PyfuncModel(Path(data_path))


def _example() -> npt.NDArray[np.uint8]:
    """Two images that are gradients, uint8 (2, 32, 32, 3)."""
    shape = (2, _EXAMPLE_SIDE_PX, _EXAMPLE_SIDE_PX, 3)
    return np.linspace(0, 255, num=int(np.prod(shape))).astype(np.uint8).reshape(shape)
