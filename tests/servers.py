"""The servers that tests talk to, each kind in a module of its own."""

from tests.faultserver import (
    CLOSE,
    RESET,
    ByRequest,
    Reply,
    Request,
    Script,
    ScriptedServer,
    Step,
    chunked,
    scripted,
    self_signed,
)
from tests.foreignserver import ForeignServer
from tests.webservers import Apache, Nginx, apache, nginx

__all__ = [
    "CLOSE",
    "RESET",
    "Apache",
    "ByRequest",
    "ForeignServer",
    "Nginx",
    "Reply",
    "Request",
    "Script",
    "ScriptedServer",
    "Step",
    "apache",
    "chunked",
    "nginx",
    "scripted",
    "self_signed",
]
