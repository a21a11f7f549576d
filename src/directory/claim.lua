-- Puts a socket first in a person's entry. KEYS[1]: the entry. ARGV: the socket's JSON, its id,
-- the TTL in seconds, how many sockets are kept, then pairs (socket, claim) to drop.
-- Answers how many sockets stand there now, 0 where what stood there was not an entry.
local raw = redis.pcall('GET', KEYS[1])
local damaged, others = false, {}
if raw then
  local read, old = pcall(cjson.decode, type(raw) == 'string' and raw or '')
  if read and type(old) == 'table' and old.socketId then
    local dead = {}
    for i = 5, #ARGV, 2 do dead[ARGV[i] .. ' ' .. ARGV[i + 1]] = true end
    local all = {old}
    if type(old.others) == 'table' then
      for _, other in ipairs(old.others) do all[#all + 1] = other end
    end
    for _, one in ipairs(all) do
      local whole = type(one) == 'table'
      for _, field in ipairs({'socketId', 'server', 'epoch', 'device', 'claim'}) do
        whole = whole and type(one[field]) == 'string'
      end
      if whole and one.socketId ~= ARGV[2] and not dead[one.socketId .. ' ' .. one.claim]
        and #others < tonumber(ARGV[4]) - 1 then
        -- Written field by field: cjson keeps no order.
        others[#others + 1] = '{"socketId":' .. cjson.encode(one.socketId)
          .. ',"server":' .. cjson.encode(one.server) .. ',"epoch":' .. cjson.encode(one.epoch)
          .. ',"device":' .. cjson.encode(one.device) .. ',"claim":' .. cjson.encode(one.claim)
          .. ',"v":1}'
      end
    end
  else
    damaged = true
  end
end
local text = ARGV[1]
if #others > 0 then
  text = string.sub(text, 1, -2) .. ',"others":[' .. table.concat(others, ',') .. ']}'
end
redis.call('SET', KEYS[1], text, 'EX', ARGV[3])
return damaged and 0 or #others + 1
