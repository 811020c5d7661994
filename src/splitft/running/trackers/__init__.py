"""Trackers: callbacks that log every figure of a run to a library, one file each; `report_to` names them."""
