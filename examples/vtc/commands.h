/*
 * The commands of the tool; main() finds them in this order.
 */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "options.h"

extern const struct command compare_command;
extern const struct command compress_command;
extern const struct command cost_command;
extern const struct command methods_command;

#endif
