"""Which interfaces are watched, and why. Pure: decided from what netlink tells of an interface."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from podwire_agent.model import Interface


@dataclass(frozen=True, slots=True)
class Cni:
    """How a network plugin names the host ends of its pods' veths."""

    pattern: str
    """Regular expression of the whole name."""
    source: str
    """Where the plugin's project sets the name."""


_CNI_PLUGINS_LIBRARY = "containernetworking/plugins pkg/ip/link_linux.go: RandomVethName"

CNIS: dict[str, Cni] = {
    "antrea": Cni(r".+-[0-9a-f]{6}", "antrea-io/antrea pkg/agent/util/net.go: GenerateContainerInterfaceName"),
    "aws-vpc-cni": Cni(r"eni.+", "aws/amazon-vpc-cni-k8s AWS_VPC_K8S_CNI_VETHPREFIX, by default eni"),
    "azure": Cni(r"azv.+", "Azure/azure-container-networking network/endpoint_linux.go: hostVEthInterfacePrefix"),
    "bridge": Cni(r"veth.+", _CNI_PLUGINS_LIBRARY),
    "calico": Cni(r"cali.+", "projectcalico/calico Felix InterfacePrefix (FELIX_INTERFACEPREFIX), by default cali"),
    "canal": Cni(r"cali.+", "flannel's network with Calico's veths: see calico"),
    "cilium": Cni(r"lxc.+", "cilium/cilium pkg/datapath/connector: HostInterfacePrefix"),
    "flannel": Cni(r"veth.+", f"delegates to bridge: {_CNI_PLUGINS_LIBRARY}"),
    "gke": Cni(r"gke.+", "tigera/operator pkg/render/node.go: Felix' interface prefix for GKE's plugin"),
    "kindnet": Cni(r"veth.+", f"delegates to ptp: {_CNI_PLUGINS_LIBRARY}"),
    "kube-ovn": Cni(r"[0-9a-f]{5,12}_(.+_)?h", "kubeovn/kube-ovn pkg/daemon/ovs_linux.go: generateNicName"),
    "kube-router": Cni(r"veth.+", f"delegates to bridge: {_CNI_PLUGINS_LIBRARY}"),
    "ovn-kubernetes": Cni(
        r"[0-9a-f]{15}", "ovn-org/ovn-kubernetes go-controller/pkg/cni/helper_linux.go: setupInterface"
    ),
    "weave": Cni(r"vethwe.+", "weaveworks/weave net/veth.go: AttachContainer, vethwepl"),
}
"""The default names of the common plugins, all of which can be configured to others: then use vethPattern."""


class Role(StrEnum):
    """What an interface is to a monitor."""

    VETH = "veth"
    """The host end of a pod's veth: what comes in was sent by the pod."""
    HOST = "host"
    """An interface of the host itself: what comes in goes to the host and its pods."""
    NONE = ""
    """Not watched."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Whether an interface is watched, as what, and why (a sentence for people)."""

    role: Role
    reason: str

    def __bool__(self) -> bool:
        return self.role is not Role.NONE


@dataclass(frozen=True, slots=True)
class Selector:
    """A monitor's choice of interfaces."""

    pattern: str = ""
    """A veth is only watched if its whole name matches; "": whatever its name."""
    host_interfaces: frozenset[str] = frozenset()
    """Exact names of interfaces of the host that are watched too."""

    @classmethod
    def of_cni(cls, name: str, host_interfaces: frozenset[str] = frozenset()) -> Selector:
        """The choice of the veths of a plugin of `CNIS`. KeyError where it is not in there."""
        return cls(CNIS[name].pattern, host_interfaces)

    def select(self, interface: Interface) -> Selection:
        """Decide on one interface."""
        if interface.name in self.host_interfaces:
            return Selection(Role.HOST, "named in hostInterfaces")
        if interface.kind == "netkit":
            return Selection(Role.NONE, "netkit: its traffic does not pass the host's TC hooks")
        if interface.kind != "veth":
            return Selection(Role.NONE, f"not a veth ({interface.kind or 'hardware or loopback'})")
        if interface.peer_netns_id is None:
            return Selection(Role.NONE, "a veth whose other end is not in another namespace")
        if not self.pattern:
            return Selection(Role.VETH, "a veth whose other end is in another namespace")
        if not re.fullmatch(self.pattern, interface.name):
            return Selection(Role.NONE, f"its name does not match {self.pattern!r}")
        return Selection(
            Role.VETH, f"a veth whose other end is in another namespace; its name matches {self.pattern!r}"
        )
