"""Generation by vLLM: its server as a child process of the rollout service, behind the Protocol `Engine`.

`keeper` ties the child to the service, `server` starts it and speaks to it, `weights` runs inside it, `turns` says
whose policy is in memory, `engine` puts them together. Nothing here imports vllm but `weights`, in the child.
"""
