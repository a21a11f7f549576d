"""Tests of bench/model: a case computed by hand, what must hold of every case, and that the model
speaks of the code and of the document as they are. `./test` runs them; alone:
python3 bench/model_test.py
"""

import importlib.machinery
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "bench" / "model"


def load():
    loader = importlib.machinery.SourceFileLoader("model", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("model", loader))
    # Dataclasses look their module up.
    sys.modules["model"] = module
    loader.exec_module(module)
    return module


model = load()


def run(*given):
    return subprocess.run([SCRIPT, *given], capture_output=True, text=True, timeout=60)


def of(users, *given):
    return model.model(users, model.arguments(given))


class ByHand(unittest.TestCase):
    """864,000 users: what they do in a day is ten times as much each second for each one."""

    def setUp(self):
        self.m = of(
            864_000, "--online", "0.5", "--messages", "100", "--peak", "2", "--bursts", "0",
            "--sessions", "10", "--pages", "1", "--conversations", "20", "--retention-days", "10",
            "--message-bytes", "100", "--restarts", "1", "--sockets-per-server", "10000",
            "--cores", "2", "--cpu-share", "0.5", "--cpu-us-per-message", "1000",
            "--cpu-us-per-idle", "1", "--user-bytes", "1000", "--kernel-bytes", "4000",
            "--server-gib", "2", "--opens-per-balancer", "50", "--row-bytes", "160",
            "--mailbox-row-bytes", "100", "--entry-bytes", "300", "--writes-per-message", "2",
            "--reads-per-message", "0.5", "--writes-per-session", "2.5", "--hint-bytes", "128",
            "--gets-per-message", "2", "--publishes-per-message", "2", "--across", "0.5",
            "--map-bytes", "250", "--redis-ops", "10000", "--redis-share", "0.5",
            "--redis-gib", "1", "--room-members", "64", "--write-price", "1", "--read-price", "1",
            "--storage-price", "1")

    def test_servers(self):
        self.assertEqual(self.m.online, 432_000)
        self.assertEqual(self.m.messages, 2_000)
        self.assertEqual(self.m.opens, 200)
        # 2.432 cores of which a server uses 1; 2.01 GiB of which it has 2.
        self.assertEqual(self.m.servers_by,
                         {"sockets": 44, "CPU": 3, "memory": 2, "one may die": 2})
        self.assertEqual((self.m.servers, self.m.apis, self.m.balancers), (44, 2, 4))

    def test_redis(self):
        # 2,000 messages of 2 GETs and half of 2 PUBLISHes; 400 connects and goodbyes; 44 servers
        # sweep 16 each; 46 processes probe in 6 s.
        self.assertAlmostEqual(self.m.redis_ops, 6_000 + 400 + 704 + 46 / 6)
        self.assertEqual(self.m.shards, 2)
        self.assertAlmostEqual(self.m.redis_connections, 2 * 46 + 46 / 2)

    def test_dynamodb(self):
        # 46 rows of 160 bytes are 2 units, read by 46 processes every 2 s and 4 balancers a second.
        self.assertEqual(self.m.board_reads, (46 / 2 + 4) * 2)
        self.assertEqual(self.m.board_writes, 46 / 5)
        self.assertAlmostEqual(self.m.peak_writes, 2_000 * 2 + 200 * 2.5 + 9.2)
        # A mailbox is a unit, a page of 50 × 400 bytes 5; the belt reads half a unit each hour.
        self.assertAlmostEqual(self.m.peak_reads, 2_000 * 0.5 + 200 * 6 + 432_000 / 3_600 / 2 + 54)
        month = 365 / 12 * 86_400
        self.assertAlmostEqual(self.m.dollars["writes"], month * (2_000 + 250 + 9.2) / 1e6)
        waves = 46 * 2 * 432_000
        reads = month * (500 + 600 + 60 + 54) + waves
        self.assertAlmostEqual(self.m.dollars["reads"], reads / 1e6)
        self.assertAlmostEqual(self.m.storage_gb, 864_000 * 1_000 * 400 / 2**30)

    def test_bounds(self):
        by_name = {bound.name.split(":")[0]: bound for bound in self.m.bounds}
        self.assertEqual(by_name["the board is read by all"].use, 54)
        # 44 servers read 1,000 mailboxes a second each beside all else.
        wave = by_name["mailboxes are read again"]
        self.assertAlmostEqual(wave.use, self.m.peak_reads + 44_000)
        # 2,000 hints of 128 bytes, read by 46 processes.
        self.assertAlmostEqual(by_name["a server's hints are read by all"].use, 62.5)
        self.assertAlmostEqual(by_name["hints go over the board"].use,
                               self.m.peak_reads + 62.5 * 46)
        self.assertEqual(self.m.bounds[0], wave, "the nearest stands first")


class Always(unittest.TestCase):
    def test_messages_are_linear_and_the_board_is_not(self):
        small, large = of(10**8), of(10**9)
        self.assertAlmostEqual(large.month_writes["messages"] / small.month_writes["messages"], 10)
        self.assertGreater(large.board_reads / small.board_reads, 80)

    def test_a_large_room_costs_a_publish_for_each_server(self):
        quiet, loud = of(10**7, "--room-messages", "0"), of(10**7, "--room-messages", "5")
        self.assertAlmostEqual(loud.redis_ops - quiet.redis_ops, 5 * 2 * loud.servers)
        small = of(10**7, "--room-messages", "5", "--room-members", "64")
        self.assertEqual(small.redis_ops, quiet.redis_ops, "up to 64 are located one by one")

    def test_larger_processes_move_the_board_away(self):
        few, many = of(10**8, "--sockets-per-server", "200000"), of(10**8)
        self.assertLess(few.servers, many.servers)
        self.assertLess(few.board_reads, many.board_reads)

    def test_nothing_asks_for_less_when_there_is_more_of_it(self):
        for name in ("online", "messages", "peak", "sessions", "cpu_us_per_message", "user_bytes",
                     "map_bytes", "row_bytes", "hint_bytes", "room_changes", "restarts"):
            option = "--" + name.replace("_", "-")
            default = {n: d for n, d, *_ in model.ASSUMPTIONS}[name]
            less, more = of(10**7, option, str(default / 2)), of(10**7, option, str(default * 1.5))
            with self.subTest(name):
                self.assertLessEqual(less.servers, more.servers)
                self.assertLessEqual(less.shards, more.shards)
                self.assertLessEqual(less.dollars_a_month, more.dollars_a_month)
                moved = [b.name for b in less.bounds
                         if b.use > {c.name: c for c in more.bounds}[b.name].use]
                # With more servers each has fewer people; with more masters a node has fewer.
                self.assertLessEqual(set(moved), {"connections of a Redis node"})

    def test_what_breaks_first_is_where_its_bound_is_passed(self):
        a = model.arguments([])
        order = model.order_of_breaking(a)
        self.assertGreater(len(order), 3)
        self.assertEqual([users for users, _ in order], sorted(users for users, _ in order))
        for users, bound in order:
            with self.subTest(bound.name):
                at = {b.name: b.ratio for b in model.model(users, a).bounds}[bound.name]
                before = {b.name: b.ratio for b in model.model(int(users * 0.99), a).bounds}
                self.assertGreater(at, 1)
                self.assertLessEqual(before[bound.name], 1)

    def test_another_limit_makes_another_thing_break_first(self):
        first = [bound.name for _, bound in model.order_of_breaking(model.arguments([]))]
        wide = ["--table-reads", "1e18", "--table-writes", "1e18"]
        other = [bound.name for _, bound in model.order_of_breaking(model.arguments(wide))]
        self.assertIn("table", first[0])
        self.assertFalse([name for name in other if "of the table" in name])


class Truth(unittest.TestCase):
    """The model speaks of the code and the document as they are."""

    def constant(self, file, name):
        text = (ROOT / "src" / file).read_text()
        found = re.search(rf"const {name}: [^=]+ = (?:Duration::from_\w+\()?([\d_]+)", text)
        self.assertIsNotNone(found, f"{name} in {file}")
        return int(found[1].replace("_", ""))

    def test_the_constants_are_those_of_the_code(self):
        constant = self.constant
        self.assertEqual(constant("board/mod.rs", "BEAT_INTERVAL_MS"), model.BEAT_SECONDS * 1e3)
        self.assertEqual(constant("board/mod.rs", "READ_INTERVAL_MS"),
                         model.BOARD_READ_SECONDS * 1e3)
        self.assertEqual(constant("balancer/discovery.rs", "LOOK_INTERVAL"),
                         model.BALANCER_LOOK_SECONDS)
        self.assertEqual(constant("chat/keeper.rs", "BELT"), model.BELT_SECONDS)
        probe = constant("chat/keeper.rs", "PROBE_INTERVAL")
        probe += constant("chat/keeper.rs", "PROBE_PATIENCE")
        self.assertEqual(probe, model.PROBE_SECONDS)
        step = constant("chat/keeper.rs", "REREAD_STEP")
        pause_ms = constant("chat/keeper.rs", "REREAD_PAUSE")
        self.assertEqual(step * 1_000 / pause_ms, model.REREADS_A_SECOND)
        self.assertEqual(constant("chat/claim.rs", "SWEEP_SECONDS"), model.SWEEP_SECONDS)
        self.assertEqual(constant("chat/claim.rs", "SWEEP_MIN"), model.SWEEP_A_SECOND_MIN)
        self.assertEqual(constant("chat/route.rs", "ROOM_LOCATE_MAX"), model.ROOM_LOCATE_MAX)

    def test_the_document_shows_what_the_script_prints(self):
        text = (ROOT / "docs" / "scale.md").read_text()
        shown = re.search(r"<!-- model: begin -->\n```\n(.*?)```\n<!-- model: end -->", text, re.S)
        self.assertIsNotNone(shown, "the marks in docs/scale.md")
        printed = run()
        self.assertEqual(printed.returncode, 0, printed.stderr)
        self.assertEqual(shown[1], printed.stdout, "run bench/model and put what it prints there")

    def test_each_default_says_where_it_comes_from(self):
        help_text = " ".join(run("--help").stdout.split())
        for name, _, what, source in model.ASSUMPTIONS:
            self.assertTrue(source, name)
            self.assertIn("--" + name.replace("_", "-") + " N", help_text)
            self.assertIn(" ".join(what.split()), help_text)

    def test_each_measured_default_stands_on_the_page_it_names(self):
        named = 0
        for name, default, _, source in model.ASSUMPTIONS:
            page = source.split(",")[0]
            if page not in ("benchmarks", "scale"):
                continue
            named += 1
            text = (ROOT / "docs" / f"{page}.md").read_text()
            # What the script prints stands there too, and proves nothing.
            text = re.sub(r"<!-- model: begin -->.*?<!-- model: end -->", "", text, flags=re.S)
            shown = re.escape(f"{default:,}")
            found = re.search(rf"(?<![\d.,]){shown}(?![\d]|[.,]\d)", text)
            self.assertIsNotNone(found, f"{name}: {default:,} is not in docs/{page}.md")
        self.assertGreater(named, 10)


class CommandLine(unittest.TestCase):
    def test_json_has_what_the_table_has(self):
        told = json.loads(run("--json", "--users", "1e6,2e6").stdout)
        self.assertEqual([m["users"] for m in told["models"]], [1_000_000, 2_000_000])
        self.assertEqual(told["models"][0]["servers"], of(1_000_000).servers)
        self.assertEqual(told["breaks"][0]["users"], min(b["users"] for b in told["breaks"]))

    def test_what_makes_no_sense_is_refused(self):
        for given in (["--users", "many"], ["--users", "0"], ["--online", "2"],
                      ["--messages", "-1"], ["--redis-ops", "0"], ["--peak", "nan"],
                      ["--nonsense"]):
            with self.subTest(given):
                refused = run(*given)
                self.assertEqual(refused.returncode, 2)
                self.assertNotIn("Traceback", refused.stderr)


if __name__ == "__main__":
    unittest.main()
