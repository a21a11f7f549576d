-- Removes one claim of one socket from a person's entry, and nothing else.
-- KEYS[1]: the entry. ARGV: the socket's id, its claim. Answers 1 where it stood there.
local raw = redis.pcall('GET', KEYS[1])
if type(raw) ~= 'string' then return 0 end
local read, old = pcall(cjson.decode, raw)
if not read or type(old) ~= 'table' or not old.socketId then return 0 end
local all, kept, found = {old}, {}, 0
if type(old.others) == 'table' then
  for _, other in ipairs(old.others) do all[#all + 1] = other end
end
for _, one in ipairs(all) do
  local whole = type(one) == 'table'
  for _, field in ipairs({'socketId', 'server', 'epoch', 'device', 'claim'}) do
    whole = whole and type(one[field]) == 'string'
  end
  if whole and one.socketId == ARGV[1] and one.claim == ARGV[2] then
    found = 1
  elseif whole then
    -- Written field by field: cjson keeps no order.
    kept[#kept + 1] = '{"socketId":' .. cjson.encode(one.socketId)
      .. ',"server":' .. cjson.encode(one.server) .. ',"epoch":' .. cjson.encode(one.epoch)
      .. ',"device":' .. cjson.encode(one.device) .. ',"claim":' .. cjson.encode(one.claim)
      .. ',"v":1'
  end
end
if found == 0 then return 0 end
if #kept == 0 then
  redis.call('DEL', KEYS[1])
  return 1
end
local text = kept[1]
if #kept > 1 then
  text = text .. ',"others":[' .. table.concat(kept, '},', 2) .. '}]'
end
redis.call('SET', KEYS[1], text .. '}', 'KEEPTTL')
return 1
