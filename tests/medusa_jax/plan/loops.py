"""A program written by hand, with every kind of loop whose number of trips the text tells."""

LOOPS = """HloModule loops, is_scheduled=true, num_partitions=4, replica_count=2
%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(256)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[8]{0:T(256)S(1)} get-tuple-element(%carry), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %y = f32[8]{0:T(256)S(1)} tanh(%x), backend_config={"window_config":{"estimated_cycles":"70"}}
  ROOT %out = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) tuple(%next, %y)
}
%condition (carry.1: (s32[], f32[8])) -> pred[] {
  %carry.1 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit = s32[] constant(7)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}
%until_asked (carry.2: (s32[], f32[8])) -> pred[] {
  %carry.2 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit.2 = s32[] constant(7)
  %i.2 = s32[] get-tuple-element(%carry.2), index=0
  %lt.2 = pred[] compare(%i.2, %limit.2), direction=LT
  ROOT %and = pred[] and(%lt.2, %lt.2)
}
%less (a: s32[], b: s32[]) -> pred[] {
  %b = s32[] parameter(1)
  %a = s32[] parameter(0)
  ROOT %lt.3 = pred[] compare(%a, %b), direction=LT
}
%fused_condition (carry.3: (s32[], f32[8])) -> pred[] {
  %carry.3 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit.3 = s32[] constant(9)
  %i.3 = s32[] get-tuple-element(%carry.3), index=0
  ROOT %fused = pred[] fusion(%i.3, %limit.3), kind=kLoop, calls=%less
}
%downwards (carry.5: (s32[], f32[8])) -> pred[] {
  %carry.5 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit.5 = s32[] constant(7)
  %i.5 = s32[] get-tuple-element(%carry.5), index=0
  ROOT %gt = pred[] compare(%i.5, %limit.5), direction=GT
}
%never (carry.6: (s32[], f32[8])) -> pred[] {
  %carry.6 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit.6 = s32[] constant(1)
  %i.6 = s32[] get-tuple-element(%carry.6), index=0
  ROOT %lt.6 = pred[] compare(%i.6, %limit.6), direction=LT
}
%as_given (carry.7: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry.7 = (s32[], f32[8]{0}) parameter(0)
  %i.7 = s32[] get-tuple-element(%carry.7), index=0
  %x.7 = f32[8]{0} get-tuple-element(%carry.7), index=1
  %next.7 = s32[] custom-call(%i.7), custom_call_target="Next"
  ROOT %out.7 = (s32[], f32[8]{0}) tuple(%next.7, %x.7)
}
%two_at_once (carry.4: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry.4 = (s32[], f32[8]{0}) parameter(0)
  %i.4 = s32[] get-tuple-element(%carry.4), index=0
  %x.4 = f32[8]{0} get-tuple-element(%carry.4), index=1
  %two = s32[] constant(2)
  %next.4 = s32[] add(%i.4, %two)
  ROOT %out.4 = (s32[], f32[8]{0}) tuple(%next.4, %x.4)
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0), metadata={op_name="x (in parentheses)"}
  %start = s32[] constant(2)
  %copied = s32[] copy(%start)
  %first = (s32[], f32[8]{0:S(1)}) tuple(%copied, %p)
  %stated = (s32[], f32[8]{0}) while(%first), condition=%until_asked, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %from_two = (s32[], f32[8]{0}) while(%first), condition=%condition, body=%body
  %fused_loop = (s32[], f32[8]{0}) while(%first), condition=%fused_condition, body=%body
  %by_twos = (s32[], f32[8]{0}) while(%first), condition=%condition, body=%two_at_once
  %down = (s32[], f32[8]{0}) while(%first), condition=%downwards, body=%body
  %none = (s32[], f32[8]{0}) while(%first), condition=%never, body=%body
  %untold = (s32[], f32[8]{0}) while(%first), condition=%condition, body=%as_given
  %open = (s32[], f32[8]{0}) while(%first), condition=%until_asked, body=%body
  ROOT %end = f32[8]{0} get-tuple-element(%open), index=1
}
"""  # noqa: E501
