// The page, walked in a real browser as two people would: connect, write each way, see the marks,
// come back after a reload and after the death of every server. Its files come from the binary.
//
//   node tests/browser/page.mjs target/debug/parlor [FOLDER]
//
// `./test` runs it, and puts playwright-core into .tools/browser. The browser is
// /usr/bin/chromium, or what PARLOR_TEST_CHROMIUM names. On failure it leaves failed.png in FOLDER,
// where one is given.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const WAIT_MS = 20_000;
const WHOLE_MS_MAX = 180_000;
const BROWSER_ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const HTML = "<img src=x onerror=alert(1)><b>not bold</b>";

const [binary, shots] = process.argv.slice(2);
if (!binary) {
  console.error("usage: node tests/browser/page.mjs BINARY [FOLDER]");
  process.exit(2);
}
const require = createRequire(new URL("../../.tools/browser/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const work = mkdtempSync(join(tmpdir(), "parlor-page-"));

// ------------------------------------------------------------------------------- the one process

let parlor = null;

/** Starts everything; `port` is the balancer's, 0 for a free one. Returns its address. */
function up(port, ...more) {
  const ports = ["--balancer-port", port, "--server-port", "0", "--api-port", "0"];
  const args = ["up", "--data", join(work, "data"), "--ready-json", ...ports, ...more];
  parlor = spawn(binary, args, { stdio: ["ignore", "pipe", "inherit"], env: quietly() });
  return new Promise((ready, failed) => {
    parlor.once("error", failed);
    parlor.once("exit", (code) => failed(new Error(`parlor ended with ${code}`)));
    createInterface({ input: parlor.stdout }).once("line", (line) => {
      ready(JSON.parse(line).balancer);
    });
  });
}

/** Its options come from the line above alone. */
function quietly() {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("PARLOR_"));
  return { ...Object.fromEntries(kept), RUST_LOG: "error" };
}

/** As `kill -9`. */
function kill() {
  if (!parlor || parlor.exitCode !== null || parlor.signalCode !== null) return undefined;
  const gone = new Promise((resolve) => parlor.once("exit", resolve));
  parlor.kill("SIGKILL");
  return gone;
}

// -------------------------------------------------------------------------------------- the walk

/** One person's half of the page. */
class Half {
  constructor(page, at) {
    this.root = page.locator(".pane").nth(at);
  }

  async connected() {
    await this.root.locator('[data-state="open"]').waitFor();
  }

  async say(text) {
    await this.root.locator("textarea").fill(text);
    await this.root.locator("textarea").press("Enter");
  }

  async sees(text) {
    await this.root.locator(".text").getByText(text, { exact: true }).waitFor();
  }

  /** Waits until the newest message of one's own has come this far. */
  async mark(words) {
    await this.root.locator(".mine").last().locator(`.mark.${words}`).waitFor();
  }

  async texts() {
    return this.root.locator(".text").allTextContents();
  }
}

async function walk(page, address) {
  const [port] = address.split(":").slice(-1);
  const [left, right] = [new Half(page, 0), new Half(page, 1)];
  const said = [];
  const bothSee = async (what) => {
    await left.sees(what);
    await right.sees(what);
  };
  const bothShowAll = async () => {
    assert.deepEqual(await left.texts(), said);
    assert.deepEqual(await right.texts(), said);
  };

  await step("both connect", async () => {
    await page.goto(`http://${address}/`);
    await left.connected();
    await right.connected();
    await left.root.getByText("Say hello to userB").waitFor();
  });
  await step("a message each way, with its marks", async () => {
    said.push("Hi", "Hello");
    await left.say("Hi");
    await right.sees("Hi");
    await left.mark("delivered");
    await right.say("Hello");
    await left.sees("Hello");
    await left.mark("read");
    await bothShowAll();
  });
  await step("what looks like HTML is text", async () => {
    said.push(HTML);
    await left.say(HTML);
    await bothSee(HTML);
    assert.equal(await page.locator(".log img, .log b").count(), 0);
  });
  await step("a reload shows the history", async () => {
    await page.reload();
    await left.connected();
    await bothSee(HTML);
    await bothShowAll();
  });
  await step("what was not pushed leaves no hole", async () => {
    assert.deepEqual(await page.evaluate(shownAroundHole), ["8", "9", "10", "11"]);
  });
  await step("every server dies, and comes back", async () => {
    await kill();
    await left.root.locator('[data-state="waiting"]').waitFor();
    await left.say("Said in between");
    await left.root.locator(".mark.pending").waitFor();
    await up(port);
    await left.connected();
    await right.connected();
    await right.sees("Said in between");
    await left.mark("delivered");
    await right.say("And on it goes");
    await left.sees("And on it goes");
    said.push("Said in between", "And on it goes");
    await bothShowAll();
  });
  await step("nothing is doubled in the history", async () => {
    const path = "/v1/conversations/dm:userA:userB/messages?userId=userA";
    const { messages } = await (await fetch(`http://${address}${path}`)).json();
    assert.deepEqual(messages.map(({ message }) => message), said);
    assert.deepEqual(messages.map(({ seq }) => seq), said.map((_, at) => at + 1));
  });
  await step("a page of another site gets neither a socket nor an answer", async () => {
    const other = createServer((_, response) => {
      response.setHeader("content-type", "text/html");
      response.end("<!doctype html><title>another site</title>");
    });
    await new Promise((ready) => other.listen(0, "127.0.0.1", ready));
    const stranger = await page.context().newPage();
    await stranger.goto(`http://127.0.0.1:${other.address().port}/`);
    assert.deepEqual(await stranger.evaluate(whatAStrangerGets, address), {
      socket: "closed",
      answer: "TypeError",
    });
    assert.match(stranger.frames().at(-1).url(), /^chrome-error:/, "nor a frame");
    await stranger.close();
    other.close();
  });
  await step("script that got in would not run", async () => {
    assert.deepEqual(problems, [], "the page itself does nothing that its policy forbids");
    assert.deepEqual(await page.evaluate(whatScriptsDo), ["TypeError", "blocked", "TypeError"]);
    assert.ok(problems.length > 0, "the browser says so");
    problems.length = 0;
  });
  await step("another name, another conversation", async () => {
    const name = left.root.locator(".as");
    await name.fill("carol");
    await name.press("Enter");
    await left.root.getByText("Say hello to userB").waitFor();
    assert.equal(await right.root.locator(".to").inputValue(), "carol");
    await left.say("I am Carol");
    await right.sees("I am Carol");
    await left.mark("delivered");
  });
}

/** The same page where nobody gets in without a token. */
async function walkWithTokens(page) {
  const [left, right] = [new Half(page, 0), new Half(page, 1)];
  const secret = join(work, "secret");
  const token = (sub, ...more) => {
    const args = ["token", "--sub", sub, "--jwt-secret-file", secret, ...more];
    return execFileSync(binary, args, { env: quietly() }).toString().trim();
  };
  const field = (half) => half.root.locator(".token input");
  const asked = [];

  await step("without a token the page asks for one", async () => {
    await kill();
    execFileSync(binary, ["token", "--new-secret", secret], { env: quietly(), stdio: "pipe" });
    const address = await up("0", "--jwt-secret-file", secret);
    page.on("request", (request) => asked.push(request.url()));
    page.on("websocket", (socket) => asked.push(socket.url()));
    await page.goto(`http://${address}/`);
    await field(left).waitFor();
    await field(right).waitFor();
    await left.root.getByText("stopped: not authorized").waitFor();
    await left.root.getByText("`parlor token --sub userA --jwt-secret-file FILE`").waitFor();
  });
  await step("what can be no token is not tried", async () => {
    const tried = asked.length;
    await field(left).fill("one two");
    await field(left).press("Enter");
    await left.root.getByText("That is no token").waitFor();
    await field(left).waitFor();
    assert.equal(asked.length, tried);
  });
  await step("a token in the field names the person", async () => {
    // As it stands in a header, too.
    for (const [half, name, before] of [[left, "tokenA", "Bearer "], [right, "tokenB", ""]]) {
      await field(half).fill(before + token(name));
      await field(half).press("Enter");
      await half.connected();
      await page.waitForFunction(
        ([at, wanted]) => document.querySelectorAll(".as")[at].value === wanted,
        [half === left ? 0 : 1, name],
      );
    }
    assert.equal(await field(left).isVisible(), false);
    await left.root.getByText("Say hello to tokenB").waitFor();
    await left.say("by token");
    await right.sees("by token");
    await left.mark("delivered");
  });
  await step("what was written between two tokens is sent", async () => {
    const admin = token("root", "--scope", "admin");
    const revoked = await fetch(`${new URL(page.url()).origin}/v1/users/tokenA/revoke`, {
      method: "POST",
      headers: { authorization: `Bearer ${admin}` },
    });
    assert.equal(revoked.status, 200);
    await field(left).waitFor();
    await left.say("signed out");
    await left.root.locator(".mark.pending").waitFor();
    // One from the second of the revocation is dead as well.
    await page.waitForTimeout(1_100);
    await field(left).fill(token("tokenA"));
    await field(left).press("Enter");
    await right.sees("signed out");
    await left.mark("delivered");
    assert.deepEqual(await left.texts(), ["by token", "signed out"]);
  });
  await step("a room that is not there says how to make it", async () => {
    await left.root.locator(".to").fill("room:nowhere");
    await left.root.locator(".to").press("Enter");
    await left.root.getByText("make it by POST /v1/rooms").waitFor();
  });
  await step("no URL carries a token, and a link with one signs nobody in", async () => {
    assert.deepEqual(asked.filter((url) => url.includes("eyJ")), []);
    const at = new URL(page.url()).origin;
    await page.goto("about:blank");
    await page.goto(`${at}/?as=x&to=tokenA#token=${token("tokenB")}`);
    await field(left).waitFor();
    await left.root.getByText("stopped: not authorized").waitFor();
  });
}

/** On the page: 1 to 3 were there, 4 to 7 missed, 8 to 10 pushed, then comes the newest page. */
async function shownAroundHole() {
  const { Log } = await import("/log.js");
  const log = document.querySelector(".log").cloneNode(true);
  const said = (seq) => ({ type: "message", seq, from: "userB", message: `${seq}`, timestamp: 1 });
  const shown = new Log(log, {});
  shown.clear("userA", "userB");
  shown.add([1, 2, 3, 8, 9, 10].map(said));
  shown.newest({ messages: [9, 10, 11].map(said), hasMore: true });
  return [...log.querySelectorAll(".text")].map((text) => text.textContent);
}

/** On another site's page. */
async function whatAStrangerGets(address) {
  const socket = new WebSocket(`ws://${address}/ws?userId=userA`);
  const opened = new Promise((tell) => {
    socket.onopen = () => tell("open");
    socket.onclose = () => tell("closed");
  });
  const answer = fetch(`http://${address}/v1/users/userA/conversations?userId=userA`);
  const frame = document.createElement("iframe");
  frame.src = `http://${address}/`;
  const loaded = new Promise((tell) => (frame.onload = tell));
  document.body.append(frame);
  await loaded;
  return {
    socket: await opened,
    answer: await answer.then(() => "an answer", (error) => error.name),
  };
}

/** On the page: markup from a string, a handler in an attribute, a script from a string. */
async function whatScriptsDo() {
  const thrown = (run) => {
    try {
      run();
      return "ran";
    } catch (error) {
      return error.name;
    }
  };
  const markup = thrown(() => (document.createElement("div").innerHTML = "<b>planted</b>"));
  const blocked = new Promise((tell) => {
    document.addEventListener("securitypolicyviolation", () => tell("blocked"), { once: true });
    setTimeout(() => tell("ran"), 5_000);
  });
  const style = document.createElement("style");
  style.textContent = "body { --planted: 1 }";
  document.head.append(style);
  const script = thrown(() => (document.createElement("script").text = "planted"));
  return [markup, await blocked, script];
}

async function step(name, run) {
  await run();
  console.log(`ok: ${name}`);
}

// --------------------------------------------------------------------------------- start and end

const late = setTimeout(() => {
  console.error(`it did not end within ${WHOLE_MS_MAX / 1_000} s`);
  parlor?.kill("SIGKILL");
  process.exit(1);
}, WHOLE_MS_MAX);

let browser = null;
const problems = [];
try {
  const address = await up("0");
  browser = await chromium.launchPersistentContext(join(work, "browser"), {
    executablePath: process.env.PARLOR_TEST_CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: BROWSER_ARGS,
  });
  browser.setDefaultTimeout(WAIT_MS);
  const page = browser.pages()[0] ?? (await browser.newPage());
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (/Content Security Policy|Trusted/.test(message.text())) problems.push(message.text());
  });
  page.on("dialog", (dialog) => {
    problems.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  try {
    await walk(page, address);
    await walkWithTokens(page);
    assert.deepEqual(problems, []);
  } catch (error) {
    if (shots) await page.screenshot({ path: join(shots, "failed.png") });
    throw error;
  }
} catch (error) {
  console.error(error);
  problems.forEach((problem) => console.error(`on the page: ${problem}`));
  process.exitCode = 1;
} finally {
  clearTimeout(late);
  await browser?.close();
  await kill();
  rmSync(work, { recursive: true, force: true });
}
