#pragma once

namespace openreg {

// Catches SIGSEGV and SIGBUS on device addresses and says on stderr what was
// touched; then, as for all other faults, the handler installed before runs, or
// the default action. Called once, by initialize(). (A handler installed later
// that passes signals on by raise(), as Python's faulthandler does, keeps the
// address to itself: then there is no report.)
void installFaultHandler();

} // namespace openreg
