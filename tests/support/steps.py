"""Steps of calls that the Out-of-Box tests share: INVITE with credentials, refusals, hanging up, cancelling."""

from __future__ import annotations

import secrets


def invite(caller, uri, *headers, body="", **options):
    """Send an INVITE with credentials; returns it. The challenge is answered on the way."""
    caller.call_id = f"{secrets.token_hex(8)}@test"
    text = caller.request("INVITE", uri, headers=headers, body=body, **options)
    caller.send(text)
    challenge = caller.expect(407)
    caller.send(caller.ack(text, challenge))
    answer = caller.authorization(challenge, "INVITE", uri)
    text = caller.request("INVITE", uri, headers=(*headers, answer), body=body, **options)
    caller.send(text)
    return text


def refused(caller, text, status):
    """Wait for this final answer and acknowledge it."""
    answer = caller.expect(status)
    caller.send(caller.ack(text, answer))
    return answer


def hang_up(caller, callee, text, answer):
    """ACK, BYE and its 200."""
    caller.send(caller.in_dialog("ACK", text, answer, cseq=caller.cseq))
    callee.expect("ACK")
    caller.send(caller.in_dialog("BYE", text, answer))
    callee.reply(callee.expect("BYE"), 200)
    return caller.expect(200)


def backwards(request):
    """What ``Phone.request`` needs for a request of the callee inside the call of this INVITE."""
    routes = [route.strip() for line in request.all("Record-Route") for route in line.split(",")]
    return {
        "to": request.get("From"),
        "call_id": request.get("Call-ID"),
        "headers": tuple(f"Route: {route}" for route in routes),
    }


def cancel(caller, callee, text, ringing):
    """Give up a call that rings at *callee*."""
    branch = ringing_branch(text)
    caller.send(caller.request("CANCEL", text.split(" ")[1], cseq=caller.cseq, branch=branch))
    caller.expect(200)
    callee.reply(callee.expect("CANCEL"), 200)
    callee.reply(ringing, 487, "Request Terminated")
    callee.expect("ACK")
    refused(caller, text, 487)


def ringing_branch(text):
    return text.split("branch=", 1)[1].split(";", 1)[0].split("\r", 1)[0]
