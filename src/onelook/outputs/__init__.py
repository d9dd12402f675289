"""What becomes of predicted labels: files that other programs read, and folders of sorted images."""

from onelook.outputs.filing import Filed, Undone, carry_out, undo
from onelook.outputs.formats import (
    Prediction,
    csv_text,
    label_studio_config,
    read_csv,
    write_coco,
    write_csv,
    write_label_studio,
)
from onelook.outputs.journal import read_plan
from onelook.outputs.plan import Plan, Step, plan_folders

__all__ = [
    "Filed",
    "Plan",
    "Prediction",
    "Step",
    "Undone",
    "carry_out",
    "csv_text",
    "label_studio_config",
    "plan_folders",
    "read_csv",
    "read_plan",
    "undo",
    "write_coco",
    "write_csv",
    "write_label_studio",
]
