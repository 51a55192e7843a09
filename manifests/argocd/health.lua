-- How Argo CD shows a NetworkMonitor or an AgentPool: by the conditions that the operator writes, in its words.
-- kstatus, and so Flux, reads the same conditions in the same way, but knows no Suspended.
local function health(status, message)
  return {status = status, message = message}
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "is being deleted")
end

local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  -- What is said of an older spec says nothing of this one.
  return health("Progressing", "the operator has not seen this spec yet")
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function is(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

if is("Stalled") then
  return health("Degraded", conditions.Stalled.message)
end
if is("Reconciling") then
  return health("Progressing", conditions.Reconciling.message)
end
if is("Ready") and conditions.Ready.reason == "Paused" then
  return health("Suspended", conditions.Ready.message)
end
if is("Ready") then
  return health("Healthy", conditions.Ready.message)
end
return health("Progressing", conditions.Ready and conditions.Ready.message or "the operator has not judged it yet")
