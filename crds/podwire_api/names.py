"""Names that the operator, the agents and the manifests share."""

from typing import Final

GROUP = "podwire.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "podwire.dev/v1alpha1"

MONITOR_KIND: Final = "NetworkMonitor"
POOL_KIND: Final = "AgentPool"
AGENT_NODE_KIND: Final = "AgentNode"

MONITORS = "networkmonitors"
POOLS = "agentpools"
AGENT_NODES = "agentnodes"

NAMESPACE = "podwire-system"
"""Where operator and agents run, and where the Secrets and ConfigMaps live that resources name."""

AGENT = "podwire-agent"
"""app.kubernetes.io/name of the agents' DaemonSets and pods."""
OPERATOR = "podwire-operator"
"""app.kubernetes.io/managed-by of what the operator makes; its field manager; its Lease."""

POOL_LABEL = f"{GROUP}/pool"
"""On DaemonSets and agents' pods: the AgentPool they belong to."""

AGENT_TLS_SECRET = "podwire-agent-tls"  # noqa: S105 (a name)
"""Secret with ca.crt (old and new during a change), tls.crt and tls.key of the agents' exchange."""
CA_SECRET = "podwire-ca"  # noqa: S105 (a name)
"""Secret with the key of the installation's own CA; only the operator reads it."""

MAX_MONITORS = 8
"""Monitors one node serves; the later ones, by creation time then UID, wait."""
