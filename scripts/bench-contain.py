#!/usr/bin/env python3
"""What the process of its own and the sandbox cost: the same answer with them and in one process, in turn, plain decoding.
Prints tokens/s (medians, the least and the greatest) and the median of the ratios of neighbours. Run it on an idle machine.

usage: scripts/bench-contain.py CHASKI MODEL [PAIRS [THREADS]]
"""

import json
import os
import statistics
import subprocess
import sys


def tokens_per_second(command, in_one_process):
    environment, read, write = dict(os.environ), *os.pipe()
    if in_one_process:
        # Makes the process believe that it is a worker; its last message would go through the pipe.
        environment["CHASKI_WORKER"] = f"{os.getpid()}:{write}"
        command = [*command, "--no-sandbox"]
    ran = subprocess.run(command, env=environment, pass_fds=[write], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    os.close(read)
    os.close(write)
    return json.loads(ran.stdout)["timings"]["predicted_per_second"]


def main(arguments):
    if len(arguments) < 2 or arguments[0].startswith("-"):
        sys.exit(__doc__)
    chaski, model, n_pairs, n_threads = [*arguments, *("8", "2")[len(arguments) - 2 :]][:4]
    command = [chaski, "run", "-m", model, "-p", "Tell me of the bridges of grass in Peru.", "-n", "160", "--ignore-eos", "--temp",
               "0", "-t", n_threads, "--drafter", "none", "--no-learn", "--no-prompt-cache", "--json", "-q"]
    tokens_per_second(command, False)
    pairs = []
    for at in range(int(n_pairs)):
        order = [False, True] if at % 2 == 0 else [True, False]
        of = {alone: tokens_per_second(command, alone) for alone in order}
        pairs.append((of[False], of[True]))
    for name, rates in zip(("process and sandbox", "one process"), zip(*pairs)):
        print(f"{name}: {statistics.median(rates):.2f} tokens/s ({min(rates):.2f} to {max(rates):.2f})")
    ratios = [contained / alone for contained, alone in pairs]
    print(f"with over without: {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), {len(pairs)} pairs")


if __name__ == "__main__":
    main(sys.argv[1:])
