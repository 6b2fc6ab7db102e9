"""Export of score models to ONNX files and programs of torch.export, with verification."""

from scoresde.export.write import BOUND, Exported, export_onnx, export_program

__all__ = ["BOUND", "Exported", "export_onnx", "export_program"]
