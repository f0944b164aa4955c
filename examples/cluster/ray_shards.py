"""Answers prompts.jsonl in shards, each a Ray task, and joins them in results.jsonl.

    python ray_shards.py --model /shared/model.gguf --shards 8 --cpus 4        # in a folder that all nodes share

Each node needs chaski in its PATH and util-linux (setpriv). A task whose node or process dies is run again, at most
--retries times, and continues where it was. If this script is stopped, run it again.
"""

import argparse
import os
import subprocess
import sys
import time

import ray

DONE = (0, 3)  # 3: some lines have error records
HOPELESS = (2, 4, 5)  # wrong arguments, no model, too little memory: another try would end in the same way


class Stopped(Exception):
    """chaski was killed, interrupted, or ended with an error: run it again."""


def answer(folder: str, model: str, shard: str, cpus: int) -> int:
    """Answers one shard. Returns chaski's exit code if it is 0 or 3."""
    # setpriv stops chaski when this worker process dies. Otherwise it would go on and hold the shard's lock.
    command = ["setpriv", "--pdeathsig", "TERM", "chaski", "batch", "-m", model, "-i", "prompts.jsonl"]
    command += ["-o", "results.jsonl", "--seed", "1", "--shard", shard, "--threads", str(cpus)]
    code = subprocess.run(command, cwd=folder, check=False).returncode
    if code in DONE:
        return code
    if code in HOPELESS:
        raise SystemError(f"shard {shard}: chaski ended with {code}; its message is in the log above")
    time.sleep(3)  # Another process may still hold the lock for a moment.
    raise Stopped(f"shard {shard}: chaski ended with {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shards", type=int, default=4, metavar="N")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="threads of each task")
    parser.add_argument("--retries", type=int, default=5, metavar="N")
    parser.add_argument("--address", help="of a running cluster; auto finds it [default: a cluster of this machine]")
    args = parser.parse_args()

    ray.init(address=args.address, include_dashboard=None if args.address else False)
    task = ray.remote(num_cpus=args.cpus, max_retries=args.retries, retry_exceptions=[Stopped])(answer)
    shards = [f"{number}/{args.shards}" for number in range(1, args.shards + 1)]
    ray.get([task.remote(os.getcwd(), args.model, shard, args.cpus) for shard in shards])
    sys.exit(subprocess.run(["chaski", "batch", "merge", "-o", "results.jsonl"], check=False).returncode)


if __name__ == "__main__":
    main()
