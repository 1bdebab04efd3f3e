"""The chaos of test_core_chaos with a home network behind names: servers die and come back, the DNS falls
silent, and whoever was given up answers later or never."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec.structs import replace

from imsalg.names import Answer
from imsalg.sip.locate import Srv
from imsalg.sip.values import Address
from tests.core.test_core_chaos import Chaos
from tests.sim.peer import Peer
from tests.sim.world import BASE, CORE, NETWORK, World

SERVERS = tuple(Address(f"198.51.100.{number}", 5060) for number in (21, 22))
ZONE = {
    ("_sip._udp.home.example", "SRV"): [Srv(1, 10, 5060, "one.example"), Srv(1, 10, 5060, "two.example")],
    ("one.example", "A"): [SERVERS[0].host],
    ("two.example", "A"): [SERVERS[1].host, NETWORK.host],
}


class Searching(Chaos):
    def __init__(self, seed):
        core = replace(BASE["core"], next_hop=("sip:home.example", f"sip:{NETWORK}"))
        super().__init__(seed, partial(World, core=core))
        self.world.dns = ZONE
        self.servers = [Peer(self.world, address, CORE) for address in SERVERS]
        self.peers += self.servers
        self.answered = 0

    def trouble(self):
        world = self.world
        match self.rng.randrange(6):
            case 0:
                world.dns = None
            case 1 | 2:
                world.dns = ZONE
                world.ttl = self.rng.choice((0.0, 5.0, 600.0))
                for question in world.looked_up[self.answered :]:
                    world.core.answered(question, Answer(), world.now)  # a time-out, or too late
                world.settle()
                self.answered = len(world.looked_up)
            case 3:
                world.peers.pop(self.rng.choice(SERVERS), None)
            case 4:
                server = self.rng.choice(self.servers)
                world.peers[server.address] = server
            case _:
                super().trouble()


@pytest.mark.parametrize("seed", range(3000, 3060))
def test_whatever_servers_and_names_do_everything_ends(seed):
    Searching(seed).run()
