"""`python -m services.verifier [--port N]`"""

from services.common.serve import serve
from services.verifier.app import create_app
from services.verifier.settings import VerifierSettings

if __name__ == "__main__":
    serve("verifier", create_app, VerifierSettings())
