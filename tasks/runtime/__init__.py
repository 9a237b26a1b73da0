"""What every task stands on: folders, records, locks, retries and resuming, lineage, log, progress.

The only wing with Prefect's run context. Imports `model`.
"""
