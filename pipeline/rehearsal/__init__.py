"""Both paper profiles end to end at reduced depth: made-up checkpoints of the true layouts, mild data of the true schemas."""
