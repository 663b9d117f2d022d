"""The verifier: verdicts with feedback on completions, and the sandbox that untrusted programs run in.

Invariant: expected outputs stay in this service's own process; the sandbox never holds them (Law 4).
"""
