"""The options that several commands share, in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from quantonnx.calibration.samples import ImageOptions, Samples
    from quantonnx.config import QuantConfig
    from quantonnx.model import Model
    from quantonnx.plan import Plan
    from quantonnx.target import Target

_TARGET, _SAMPLES, _IMAGES, _NUMBERS = "Target", "Samples", "Folders of images", "Numbers"

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; external data beside it is found.")]

PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", metavar="PLAN.yaml", help="Do what an edited plan says.", rich_help_panel=_TARGET),
]


@dataclass(frozen=True)
class OutOptions:
    """Where the result goes."""

    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The file to write.")]
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")] = False
    external_data: Annotated[bool, typer.Option("--external-data", help="Put the weights into OUT.data.")] = False

    def check(self) -> None:
        """Raises OutputError, before any work, where OUT cannot be written."""
        check_out(self.out, force=self.force)

    def save(self, model: Model) -> None:
        """Writes a model."""
        model.save(self.out, force=self.force, external_data=self.external_data)


def check_out(out: Path, *, force: bool) -> None:
    """Raises OutputError where `out` cannot be written."""
    name = repr(str(out))
    if out.is_dir():
        raise OutputError(f"{name} is a folder", "name a file")
    if out.exists() and not out.is_file():
        raise OutputError(f"{name} is no regular file", "name another one")
    if out.exists() and not force:
        raise OutputError(f"{name} exists already", "use --force to replace it, or name another file")
    if not out.parent.is_dir():
        raise OutputError(f"the folder {str(out.parent)!r} does not exist", "create it first")


@dataclass(frozen=True)
class TargetOptions:
    """Which compiler the model is for."""

    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            help="tensorrt (the default), onnxruntime, openvino, or a target file: Python code, which is run.",
            rich_help_panel=_TARGET,
        ),
    ] = None
    patterns: Annotated[
        Path | None,
        typer.Option(
            "--patterns",
            metavar="FILE.py",
            help="Your own patterns, tried before the target's: Python code, which is run.",
            rich_help_panel=_TARGET,
        ),
    ] = None

    def choose(self, plan: Plan | None = None) -> Target:
        """Returns the target: the one asked for, or the plan's, or tensorrt."""
        from quantonnx.rewriting import choose_target

        return choose_target(self.target, str(self.patterns) if self.patterns else (), plan)


@dataclass(frozen=True)
class NumberOptions:
    """What to quantize, and how ranges are chosen."""

    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="A YAML, TOML or JSON file of settings; see `quantonnx config`.",
            rich_help_panel=_NUMBERS,
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="w8a8, w8a16, w4a8, w4a16, w8, w4, fp8, xint8 or qnn-u16: values beneath all others.",
            rich_help_panel=_NUMBERS,
        ),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="minmax, moving_average[:0.01], histogram (= mse), percentile[:99.99], entropy, auto.",
            rich_help_panel=_NUMBERS,
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="NAME",
            help="Leave this in float: a node, tensor or operator type, or re:REGEX; repeatable.",
            rich_help_panel=_NUMBERS,
        ),
    ] = None

    keep_slow: Annotated[
        bool,
        typer.Option(
            "--keep-slow",
            help="Quantize operators too that are expected to be slower in integers.",
            rich_help_panel=_NUMBERS,
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Returns what the file says. Raises ConfigError where it cannot be read."""
        from quantonnx.config import load_settings

        return load_settings(self.config) if self.config else {}

    def build(self) -> QuantConfig:
        """Returns the configuration of the file, changed by the other options."""
        from quantonnx.config import QuantConfig

        values = self.settings()
        if self.preset is not None:
            values["preset"] = self.preset
        checked = QuantConfig(**values)
        if self.method is not None:
            if checked.only_weights:
                off = "the configuration has `activation: null`"
                if checked.activation is not None:
                    off = f"preset {checked.preset} quantizes weights only"
                raise ConfigError(f"--method is given, and {off}", "give one of them")
            activation = values.get("activation") or {}
            values["activation"] = {**activation, "calibration_method": checked_method(self.method)}
        values["exclude"] = (*checked.exclude, *(self.exclude or ()))
        return QuantConfig(**values | {"keep_slow": checked.keep_slow or self.keep_slow})


def checked_method(method: str) -> str:
    """Returns the name of a range method. Raises ConfigError for one that does not exist."""
    from quantonnx.calibration.ranges import parse_method

    parse_method(method)
    return method


@dataclass(frozen=True)
class SampleOptions:
    """Where samples come from, and how images become arrays."""

    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            metavar="DATA",
            help="An npz or npy file, a folder of them or of images, or of test_data_set_*.",
            rich_help_panel=_SAMPLES,
        ),
    ] = None
    random_data: Annotated[
        int | None,
        typer.Option(
            "--random-data",
            metavar="N",
            min=1,
            help="N random samples instead: fit to try, not to use.",
            rich_help_panel=_SAMPLES,
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="N", min=1, help="Take the first N samples.", rich_help_panel=_SAMPLES),
    ] = None
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Samples in one run of the model.", rich_help_panel=_SAMPLES
        ),
    ] = 1
    resize: Annotated[
        str | None,
        typer.Option("--resize", metavar="N|HxW", help="Shorter side N, or exactly H by W.", rich_help_panel=_IMAGES),
    ] = None
    crop: Annotated[
        str | None, typer.Option("--crop", metavar="N|HxW", help="Crop the middle.", rich_help_panel=_IMAGES)
    ] = None
    scale: Annotated[
        float | None, typer.Option("--scale", help="Multiply pixels (0 to 255) by this.", rich_help_panel=_IMAGES)
    ] = None
    mean: Annotated[
        str | None, typer.Option("--mean", metavar="R,G,B", help="Then subtract this.", rich_help_panel=_IMAGES)
    ] = None
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="Then divide by this.", rich_help_panel=_IMAGES)
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", metavar="nchw|nhwc", help="Order of axes; the model's by default.", rich_help_panel=_IMAGES
        ),
    ] = None
    rgb: Annotated[bool, typer.Option("--rgb/--bgr", help="Order of colours.", rich_help_panel=_IMAGES)] = True

    @property
    def given(self) -> bool:
        """True where there is any."""
        return self.data is not None or self.random_data is not None

    def check(self, command: str) -> None:
        """Raises DataError where there is no data, or two sorts of it."""
        if self.data is None and self.random_data is None:
            raise DataError(
                f"{command} has no samples",
                "give --data DATA (npz, npy, a folder of them or of images), or --random-data N just to try",
            )
        if self.data is not None and self.random_data is not None:
            raise DataError("--data and --random-data are both given", "give one of them")

    @property
    def name(self) -> str:
        """What the data is called: its file or folder, never where that is."""
        return self.data.name if self.data is not None else f"random data {self.random_data}"

    def open(self, model: Model, data: Path | None = None) -> Samples:
        """Returns the samples for a model; with `data`, those of another place, all of them."""
        from quantonnx.calibration.samples import input_specs, open_samples

        return open_samples(
            data or self.data,
            input_specs(model),
            limit=self.samples if data is None else None,
            batch_size=self.batch_size,
            images=self.images(),
            random=self.random_data if data is None else None,
        )

    def images(self) -> ImageOptions:
        """Returns what to do with images."""
        from quantonnx.calibration.samples import ImageOptions

        given: dict[str, Any] = {
            "resize": _size("--resize", self.resize),
            "crop": _size("--crop", self.crop),
            "scale": self.scale,
            "mean": _floats("--mean", self.mean),
            "std": _floats("--std", self.std),
            "layout": self.layout,
        }
        return ImageOptions(rgb=self.rgb, **{name: value for name, value in given.items() if value is not None})


def _floats(option: str, text: str | None) -> tuple[float, ...] | None:
    return None if text is None else _numbers(option, text, text.split(","), float)


def _size(option: str, text: str | None) -> Any:
    if text is None:
        return None
    sizes = _numbers(option, text, text.lower().split("x"), int)
    if len(sizes) > 2 or min(sizes) < 1:
        raise ConfigError(f"{option} is {text!r}", "expected N or HxW, such as 256 or 224x224")
    return sizes[0] if len(sizes) == 1 else sizes


def _numbers(option: str, text: str, parts: Sequence[str], kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise ConfigError(f"{option} is {text!r}", "expected numbers, such as 0.485,0.456,0.406 or 224x224") from None
