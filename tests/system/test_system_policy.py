"""Policy switches that are not at their defaults."""

from __future__ import annotations

from pathlib import Path

from tests.system.calls import audio, keys, originate, registered
from tests.system.sipp import responses
from tests.system.world import TABLES, World, registrar


def test_best_effort_srtp_where_policy_grants_it_p20(tmp_path: Path) -> None:
    offer = audio("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB")
    tables = TABLES + "[policy]\nbest_effort_srtp = true\n"
    with registrar(tmp_path), World(tables=tables) as world, registered(world, tmp_path) as ue:
        call = originate(world, tmp_path, ue=ue, offer=offer, answer=audio(port=6100))
        world.assert_no_call_left()
    (ok,) = responses(call.caller, 200, "INVITE", sent=False)
    assert len(keys(ok)) == 1
