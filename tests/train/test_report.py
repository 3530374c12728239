import json
import math

from quality_model.train.report import EpochReport, best_epoch, out_of_patience

HEADS = ("color_cast", "blurriness", "watermark", "noise")


def report(epoch: int, validation_loss: float = 0.0534) -> EpochReport:
    validation = dict(zip(HEADS, (0.0205, 0.0654, 0.0302, 0.0628), strict=True))
    r2 = dict(zip(HEADS, (0.5, math.nan, -0.25, 0.0), strict=True))
    return EpochReport(
        epoch=epoch,
        epochs=50,
        train_loss=0.0485,
        validation_loss=validation_loss,
        train_mse=dict.fromkeys(HEADS, 0.04),
        validation_mse=validation,
        train_r2=r2,
        validation_r2=r2,
        learning_rate=0.001,
        images_per_s=3.5,
        elapsed_s=12.0,
    )


def history(*losses: float) -> list[EpochReport]:
    return [report(epoch, loss) for epoch, loss in enumerate(losses, start=1)]


def test_the_line_is_written_as_the_original_writes_it() -> None:
    assert report(1).line() == (
        "Epoch 1/50, Train Loss: 0.0485, Val Loss: 0.0534 | "
        "CC: 0.0205, Blur: 0.0654, WM: 0.0302, Noise: 0.0628"
    )


def test_a_report_survives_json_with_an_undefined_r2_as_null() -> None:
    text = json.dumps(report(3).to_dict(), allow_nan=False)
    assert json.loads(text)["validation_r2"]["blurriness"] is None
    again = EpochReport.from_dict(json.loads(text))
    assert math.isnan(again.validation_r2["blurriness"])
    assert again.to_dict() == report(3).to_dict()


def test_metrics_have_one_level_and_leave_out_what_is_undefined() -> None:
    metrics = report(3).metrics()
    assert (metrics["validation_mse.noise"], metrics["learning_rate"]) == (0.0628, 0.001)
    assert "validation_r2.blurriness" not in metrics
    assert "images_per_s" not in EpochReport.from_dict(report(3).to_dict(timings=False)).metrics()


def test_the_best_epoch_has_the_least_validation_loss_and_the_first_of_equals_wins() -> None:
    assert best_epoch(history(0.3, 0.1, 0.2, 0.1)) == 2
    assert best_epoch([]) == 0


def test_patience_is_out_after_that_many_epochs_without_a_better_one() -> None:
    assert not out_of_patience(history(0.3, 0.1, 0.2), patience=2)
    assert out_of_patience(history(0.3, 0.1, 0.2, 0.1), patience=2)
    assert not out_of_patience(history(0.3, 0.1, 0.2, 0.05), patience=2)
    assert not out_of_patience([], patience=1)
