"""`optimum-cli export mobilebert`. (A namespace package, as Optimum wants it: these folders have no `__init__.py`.)"""

import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class MobileBertExportCommand(BaseOptimumCLICommand):
    """As `mobilebert-hf export`, with `--model` in Optimum's way."""

    COMMAND = CommandInfo(name="mobilebert", help="Export a MobileBERT to ONNX, OpenVINO, ExecuTorch or TFLite.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """The options."""
        parser.add_argument("-m", "--model", required=True, help="Hub id or folder of a student.")
        parser.add_argument("--format", default="onnx", help="onnx, openvino, executorch or tflite.")
        parser.add_argument("--quantize", help="int8 or int8-static; float32 by default.")
        parser.add_argument(
            "--calibration", action="append", default=[], help="For int8-static: files or folders of text; repeatable."
        )
        parser.add_argument("--no-folded", dest="folded", action="store_false", help="Leave the norms in the graph.")
        parser.add_argument("output", type=Path, help="Folder for graph, tokenizer and configuration.")

    def run(self) -> None:
        """Exports."""
        from mobilebert_hf_cli import run_export

        assert self.args is not None
        try:
            run_export(
                *(self.args.model, self.args.output, self.args.format, self.args.quantize),
                *(self.args.calibration, self.args.folded),
            )
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"optimum-cli: {error}")


REGISTER_COMMANDS = [(MobileBertExportCommand, ExportCommand)]
