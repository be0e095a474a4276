"""Run as a script on each rank: train several times, print rank 0's exit statuses as JSON."""

import faulthandler
import json
import os
import sys

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.run import main

if __name__ == "__main__":
    faulthandler.dump_traceback_later(220)  # before whoever waits for a rank that hangs ends it
    statuses = []
    for algorithm, arguments, port in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(port)
        statuses.append(main(Algorithm(algorithm), arguments))
    print(json.dumps(statuses))
