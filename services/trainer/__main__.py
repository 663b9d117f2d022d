"""`python -m services.trainer --port 8704`."""

from services.common.serve import serve
from services.trainer.app import TrainerSettings, create_app

if __name__ == "__main__":
    serve("trainer", create_app, TrainerSettings())
