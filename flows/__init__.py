"""What runs, in which order: the recipe, with no tensor, SQL or file format in it.

Every process that loads a flow imports this first: a command, a worker's run, `prefect deploy`.
"""

from tasks.runtime.environment import keep_quiet

keep_quiet()
