"""The user's own data sets, streamed into the tables of the `world` stage: one file per kind (docs/data/sources.md)."""
