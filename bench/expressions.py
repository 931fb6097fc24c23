"""How long do the script's regular expressions take? On one URI, a whole message, and 60 kB meant to hurt.

python bench/expressions.py
"""

import time

from serpy.script.patterns import compile_pattern

URI = "sip:+493012345678@example.com;transport=tcp"
MESSAGE = f"INVITE {URI} SIP/2.0\r\n" + "".join(f"X-Header-{number}: some value of it\r\n" for number in range(40))
SUBJECTS = {"uri": URI, "message": MESSAGE, "a x 60k": "a" * 60_000, "a; x 30k": "a;" * 30_000}
EXPRESSIONS = (
    "^sips?:\\+?[0-9]{3,18}@",
    "^X-Header-39:",
    "^User-Agent:[^(]*\\(",
    "[a-z]+@",
    "a.*b.*c",
    "(a+)+$",
    "^Contact:[^;]*Example",
)


def best(search, subject):
    rounds = 3 if len(subject) > 10_000 else 2_000
    found = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(rounds):
            search(subject)
        found.append((time.perf_counter() - begun) / rounds)
    return min(found) * 1e6


def main():
    print(f"{'expression':32} engine " + " ".join(f"{name:>12}" for name in SUBJECTS))
    for text in EXPRESSIONS:
        pattern = compile_pattern(text)
        print(
            f"{text:32} {pattern.engine:6} " + " ".join(f"{best(pattern.search, s):9.1f} us" for s in SUBJECTS.values())
        )


if __name__ == "__main__":
    main()
