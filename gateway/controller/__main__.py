"""The controller's processes: `python -m pmd.gateway.controller worker` and `... beat`, with Celery's own options.

Invariant: our package is imported before Celery runs. Celery looks for the application in the working directory first,
where a user may have a folder of the same name.
"""

import sys

from pmd.gateway.controller.tasks import celery

if __name__ == "__main__":
    celery.start(sys.argv[1:])
