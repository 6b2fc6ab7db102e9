"""Score models for other runtimes: ONNX files and programs of torch.export, verified."""

from scoresde.export.write import BOUND, Exported, export_onnx, export_program

__all__ = ["BOUND", "Exported", "export_onnx", "export_program"]
