"""`python -m pmd.services.trainer --port 8704`."""

from pmd.services.common.serve import serve
from pmd.services.trainer.app import create_app
from pmd.services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    serve("trainer", create_app, TrainerSettings)
