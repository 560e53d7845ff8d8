"""Images with a label, a caption or neither, wherever they lie: class folders, lists, Parquet and tar shards."""
