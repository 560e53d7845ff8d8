"""Both paper profiles end to end at reduced depth: made-up checkpoints of true layouts, mild data of true schemas."""
