"""Label profile `calibrated`, the default: a label is the severity of a measured change."""
