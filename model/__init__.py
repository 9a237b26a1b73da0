"""The science of commerce-clip: pairs, towers, losses, training and ranks.

Knows torch, open_clip, Pillow, numpy and pyarrow, and nothing of Prefect, MLflow, DVC or Great
Expectations: what must travel upward travels as a return value or as a callback handed in.
"""
