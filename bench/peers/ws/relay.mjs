// The least that a chat server in Node can be: `ws`, a map of users and one of rooms. It stores
// nothing, tells of no receipt, and knows no other server.
//
//   node relay.mjs PORT
import { createServer } from "node:http";

import { load } from "../socketio/libraries.mjs";

const PING_MS = 25_000;

const [port] = process.argv.slice(2);
const { WebSocketServer } = load("ws");

const users = new Map();
const rooms = new Map();
let seq = 0;

function members(frame) {
  if (frame.to) return users.get(frame.to);
  return rooms.get(frame.conversation.slice("room:".length));
}

function heard(socket, user, text) {
  const frame = JSON.parse(text);
  if (frame.type === "join") {
    if (!rooms.has(frame.room)) rooms.set(frame.room, new Set());
    rooms.get(frame.room).add(socket);
    socket.rooms.push(frame.room);
    socket.send('{"type":"joined"}');
    return;
  }
  seq += 1;
  // Made once, whatever the number of recipients.
  const message = JSON.stringify({ type: "message", seq, from: user, message: frame.message });
  for (const other of members(frame) ?? []) {
    if (other !== socket) other.send(message);
  }
  socket.send(JSON.stringify({ type: "sent", seq, ref: frame.ref }));
}

const http = createServer((request, response) => {
  response.writeHead(request.url === "/healthz" ? 200 : 404).end();
});
const server = new WebSocketServer({ server: http });

server.on("connection", (socket, request) => {
  const user = new URL(request.url, "http://localhost").searchParams.get("userId");
  socket.alive = true;
  socket.rooms = [];
  if (!users.has(user)) users.set(user, new Set());
  users.get(user).add(socket);
  socket.on("message", (data) => heard(socket, user, data.toString()));
  socket.on("pong", () => { socket.alive = true; });
  socket.on("close", () => {
    users.get(user).delete(socket);
    if (users.get(user).size === 0) users.delete(user);
    socket.rooms.forEach((room) => rooms.get(room).delete(socket));
  });
});

// As the library's page shows it: who has not answered the last ping is gone.
setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.alive) socket.terminate();
    socket.alive = false;
    socket.ping();
  }
}, PING_MS);

process.on("SIGTERM", () => process.exit(0));

http.listen(Number(port), "127.0.0.1", () => console.log("ready"));
