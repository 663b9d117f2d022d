"""What a developer's shell may hold, and nothing inside an installation may listen to."""

HOSTILE = {
    **dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy"),
        "http://127.0.0.1:9",
    ),
    "NO_PROXY": "nowhere.example",
    "no_proxy": "nowhere.example",
    "SSL_CERT_FILE": "/nowhere/ca.pem",
    "SSL_CERT_DIR": "/nowhere",
    "NETRC": "/nowhere/netrc",
    "WEB_CONCURRENCY": "4",
    "FORWARDED_ALLOW_IPS": "*",
    "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
    "CELERY_RESULT_BACKEND": "redis://127.0.0.1:9/0",
    "PYTHONSTARTUP": "/nowhere/startup.py",
    "MASTER_ADDR": "nowhere.example",
    "MASTER_PORT": "9",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "TMPDIR": "/nowhere",
}
