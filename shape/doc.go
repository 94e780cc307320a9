// Package shape limits the rate at which a device sends and receives (tc-tbf(8)): what is above waits in a short queue, and is
// dropped when that is full.
//
// What a device sends passes a token bucket on the device itself. What it receives is redirected to a helper, a device of kind
// ifb, whose token bucket it passes before it goes on. Packets that the sender left in one piece for its hardware to cut are
// cut where they are larger than the burst.
//
// The helper bears its owner's alias, and goes by it: [Revoke], [Retain]. The bucket on the device goes with the device.
//
// Out of scope: priorities among the packets of one device, and devices that have a queueing discipline of others, which are
// an error.
package shape
