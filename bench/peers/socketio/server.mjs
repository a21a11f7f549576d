// A chat server as Socket.IO's documentation builds it: a room for each user, emitted to by any
// server through the adapter, and an ack to the sender once the message is emitted.
//
//   node server.mjs PORT REDIS_PORT redis|sharded|streams [lean]
//
// `lean` is the cheapest that is still a chat: the request of a connection is not kept, as its page on
// memory asks for, and a message goes to its recipient alone, not to the sender's other devices: for
// one room a node that does not have it need not decode what the adapter publishes.
import { createServer } from "node:http";

import { load } from "./libraries.mjs";

const [port, redisPort, kind, lean] = process.argv.slice(2);
const { Server } = load("socket.io");

const RECOVERY = { maxDisconnectionDuration: 2 * 60 * 1000, skipMiddlewares: true };

// The documentation recommends ioredis, which restores subscriptions after a reconnection.
function connect() {
  const { Redis } = load("ioredis");
  const redis = new Redis({ host: "127.0.0.1", port: Number(redisPort) });
  redis.on("error", () => {});
  return redis;
}

// What the documentation of the sharded adapter takes: with ioredis a part of the channels, which
// are one for each room, was not subscribed to when this was tried.
async function connectSharded() {
  const { createClient } = load("redis");
  const redis = createClient({ socket: { host: "127.0.0.1", port: Number(redisPort) } });
  redis.on("error", () => {});
  return redis.connect();
}

async function createAdapter() {
  if (kind === "streams") {
    return load("@socket.io/redis-streams-adapter").createAdapter(connect());
  }
  const { createAdapter, createShardedAdapter } = load("@socket.io/redis-adapter");
  if (kind === "sharded") {
    return createShardedAdapter(await connectSharded(), await connectSharded());
  }
  return createAdapter(connect(), connect());
}

// A publish that Redis refused is not to end the process.
process.on("unhandledRejection", (error) => console.error("rejected:", error?.message));

const http = createServer((request, response) => {
  response.writeHead(request.url === "/healthz" ? 200 : 404).end();
});
const io = new Server(http, {
  adapter: await createAdapter(),
  transports: ["websocket"],
  // Only the streams adapter can keep sessions across servers; to the others it means nothing.
  ...(kind === "streams" && { connectionStateRecovery: RECOVERY }),
});

if (lean) {
  io.engine.on("connection", (socket) => { socket.request = null; });
}

io.use((socket, next) => {
  socket.data.user = socket.handshake.auth.user;
  next();
});

io.on("connection", (socket) => {
  const { user } = socket.data;
  socket.join(`user:${user}`);
  socket.on("join", (room, ack) => {
    socket.join(`room:${room}`);
    ack({ ok: true });
  });
  socket.on("message", (message, ack) => {
    // To the recipient's devices, and to the sender's other ones.
    const people = lean ? `user:${message.to}` : [`user:${message.to}`, `user:${user}`];
    io.to(message.room ? `room:${message.room}` : people)
      .except(socket.id)
      .emit("message", { ...message, from: user });
    ack({ ok: true });
  });
});

process.on("SIGTERM", () => {
  io.close(() => process.exit(0));
  setTimeout(() => process.exit(0), 5_000).unref();
});

http.listen(Number(port), "127.0.0.1", () => console.log("ready"));
