"""Run as a script on each rank: train several times, print rank 0's exit statuses as JSON."""

import json
import os
import sys

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.run import main

if __name__ == "__main__":
    statuses = []
    for algorithm, arguments, port in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(port)
        statuses.append(main(Algorithm(algorithm), arguments))
    print(json.dumps(statuses))
