"""`optimum-cli export mobilebert`, in a namespace package as Optimum expects (no `__init__.py`)."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class MobileBertExportCommand(BaseOptimumCLICommand):
    """The command, equivalent to `mobilebert-hf export`."""

    COMMAND = CommandInfo(name="mobilebert", help="Export a MobileBERT to ONNX, OpenVINO, ExecuTorch or TFLite.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Adds the options to the parser."""
        parser.add_argument("-m", "--model", required=True, help="Hub id or folder of a student.")
        parser.add_argument("--format", default="onnx", help="onnx, openvino, executorch or tflite.")
        parser.add_argument("--quantize", help="int8 or int8-static. float32 by default.")
        parser.add_argument(
            "--calibration", nargs="+", action="extend", default=[], help="Text for int8-static: files or folders."
        )
        parser.add_argument("--no-folded", dest="folded", action="store_false", help="Do not fold the norms.")
        # Optional for argparse, which gives a folder after the text to --calibration.
        parser.add_argument("output", nargs="?", help="Folder for graph, tokenizer and configuration.")

    def run(self) -> None:
        """Exports the model."""
        from mobilebert_hf_cli import run_export

        assert self.args is not None
        *calibration, last = [*self.args.calibration, self.args.output]
        if last is None and len(calibration) > 1:
            last = calibration.pop()
        if last is None:
            sys.exit("optimum-cli: the folder for graph, tokenizer and configuration is missing.")
        try:
            run_export(
                *(self.args.model, Path(last), self.args.format, self.args.quantize),
                *(calibration, self.args.folded),
            )
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"optimum-cli: {error}")


REGISTER_COMMANDS = [(MobileBertExportCommand, ExportCommand)]
