"""`python -m pmd.services.verifier [--port N]`"""

from pmd.services.common.serve import serve
from pmd.services.verifier.app import create_app
from pmd.services.verifier.settings import VerifierSettings

if __name__ == "__main__":
    serve("verifier", create_app, VerifierSettings)
